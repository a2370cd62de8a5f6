"""Recipe of the small trained model that lies in the package."""
