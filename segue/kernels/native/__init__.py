"""CPU operators in C++, where plain PyTorch would read or write memory too often.

The folders beside this one call them; their references define the correct results.
"""
