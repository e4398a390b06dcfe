"""`ebbtide bench budget`: a month under ceilings in virtual time, beside other ways to keep within a budget."""
