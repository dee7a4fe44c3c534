"""Pseudonyms and date shifts of patients: their sources, and the linkage that stores them."""
