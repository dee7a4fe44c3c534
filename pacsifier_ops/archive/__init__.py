"""Archives, whatever they speak: sessions within their limits, and what is found in them."""
