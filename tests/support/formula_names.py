"""Names of resources that a spreadsheet would run as formulas, or tear apart, and how a cell of CSV holds them."""

FORMULA_NAMES = {
    '=HYPERLINK("http://x.example","hi")': '\'=HYPERLINK("http://x.example","hi")',
    "+1+1": "'+1+1",
    "-2+3": "'-2+3",
    "@SUM(A1)": "'@SUM(A1)",
    'a,b"c': 'a,b"c',
    "tên máy 日本": "tên máy 日本",
    "=1+1": "'=1+1",
    "\tTab": "'\tTab",
    "a;b": "a;b",
    "plain": "plain",
    "\rline": "'\rline",
    "＝1＋1": "'＝1＋1",  # noqa: RUF001 - the full-width signs are meant
}
