"""What a company's usage logs say: read in any known format, grouped for pricing."""
