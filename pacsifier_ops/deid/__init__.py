"""De-identification (PS3.15 Annex E): rules, engine, pixels, verifier."""
