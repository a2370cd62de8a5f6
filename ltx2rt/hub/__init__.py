"""The Hugging Face hub: which weights are published where, fetching them into its cache, and finding them there."""
