"""A receipt as PDF, one A4 page, the same bytes for the same receipt."""

from collections.abc import Iterable
from importlib.resources import files

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import TTFFont

from services.payment.rules.receipts import Receipt, receipt_rows
from shared.clock import from_us

_FAMILY = "Source Sans Pro"
# Chinese, Japanese and Korean: a large file, opened only for who needs it.
_FALLBACK = "Noto Sans CJK JP"
# Stands for a character that no font here has: a reader sees that something is missing.
_MISSING = "?"
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
    _add_fallback(document, receipt)
    document.set_margin(20)
    document.add_page()
    document.set_font(_FAMILY, "B", 22)
    document.cell(0, 14, "Receipt", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    document.set_font(_FAMILY, "", 10)
    for line in receipt.seller:
        document.cell(0, 5, _shown(document, line), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    document.ln(8)
    for label, text in receipt_rows(receipt):
        document.set_font(_FAMILY, "", 10)
        document.cell(_LABEL_MM, _LINE_MM, label)
        document.set_font(_FAMILY, "B", 11)
        document.multi_cell(0, _LINE_MM, _shown(document, text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    return bytes(document.output())


def _add_fallback(document: FPDF, receipt: Receipt) -> None:
    """Add the large font where the receipt has characters that the first one lacks."""
    texts = (*receipt.seller, *(text for _, text in receipt_rows(receipt)))
    if _lacking(document, texts):
        font = files("noto_cjk_sans_jp_regular") / "NotoSansCJKjp-Regular.otf"
        document.add_font(_FALLBACK, "", str(font))
        document.set_fallback_fonts([_FALLBACK], exact_match=False)


def _lacking(document: FPDF, texts: Iterable[str]) -> set[str]:
    """The characters that none of the document's fonts has."""
    known = [set(font.cmap) for font in document.fonts.values() if isinstance(font, TTFFont)]
    return {character for text in texts for character in text if not any(ord(character) in font for font in known)}


def _shown(document: FPDF, text: str) -> str:
    return text.translate({ord(character): _MISSING for character in _lacking(document, [text])})
