"""Other people's formats: the textbook's data files, PyTorch's weights."""
