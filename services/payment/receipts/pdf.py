"""A receipt as PDF, one A4 page, the same bytes for the same receipt."""

from importlib.resources import files

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from services.payment.rules.receipts import Receipt, receipt_rows
from shared.clock import from_us

_FAMILY = "Source Sans Pro"
_LABEL_MM, _LINE_MM = 50, 8


def write_pdf(receipt: Receipt) -> bytes:
    """The document. Its dates are the receipt's own, so that writing it again gives the same file."""
    document = FPDF(format="A4")
    document.set_creation_date(from_us(receipt.issued_at_us))
    document.set_title(f"Receipt {receipt.number}")
    document.set_lang("en")
    fonts = files("font_source_sans_pro") / "files"
    document.add_font(_FAMILY, "", str(fonts / "SourceSansPro-Regular.ttf"))
    document.add_font(_FAMILY, "B", str(fonts / "SourceSansPro-Bold.ttf"))
    document.set_margin(20)
    document.add_page()
    document.set_font(_FAMILY, "B", 22)
    document.cell(0, 14, "Receipt", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    document.set_font(_FAMILY, "", 10)
    for line in receipt.seller:
        document.cell(0, 5, line, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    document.ln(8)
    for label, text in receipt_rows(receipt):
        document.set_font(_FAMILY, "", 10)
        document.cell(_LABEL_MM, _LINE_MM, label)
        document.set_font(_FAMILY, "B", 11)
        document.multi_cell(0, _LINE_MM, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    return bytes(document.output())
