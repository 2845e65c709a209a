"""The numbers that a text states, in digits, in words, in LaTeX or worked out, for the leak gate.

`tokens`, then `expressions` of them with their bounded `arithmetic`, then `quantities`, which the gate asks for.
Nothing is evaluated by Python, for the text is a model's.
"""
