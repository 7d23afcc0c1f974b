"""`qsweep ui`: the live page. `desk` reads, `live` follows, `guard` refuses, `app` answers, `serve` listens."""
