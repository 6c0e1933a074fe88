"""What two or more services need and that knows none of them."""
