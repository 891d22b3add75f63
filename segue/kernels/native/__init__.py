"""CPU operators in C++, for what plain PyTorch reads or writes too often. They sit behind the operators
in the folders beside this one, whose `reference.py` says what is right."""
