"""CPU operators in C++, for what plain PyTorch reads or writes too often.

They are behind the operators in the folders beside this one, whose references say what is right.
"""
