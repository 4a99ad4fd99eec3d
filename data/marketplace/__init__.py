"""A simulated search-ads marketplace that writes ordinary raw logs; docs/marketplace.md gives every reason."""
