"""What drafting with an MTP layer gives: tokens a second, acceptance, and what limits them."""
