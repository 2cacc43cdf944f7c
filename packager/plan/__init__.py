"""What a model takes on each GPU, and the most it can give: from its config alone, no weights."""
