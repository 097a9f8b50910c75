"""Stored counts to results, tables, plots, HTML reports and exports. No torch is imported here."""
