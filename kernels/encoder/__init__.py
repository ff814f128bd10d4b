"""What a BERT encoder runs on activation panels: from the word table to the last layer norm, without a transpose.

A *row* is one channel for all tokens of a panel: four registers of 16 lanes (``rows``), or two in a panel of 32
(``half_rows``). Products, softmax and layer norm work down the rows, each lane for itself: no lane ever looks at
another, so a token's bits do not depend on where in a panel it lies or what lies beside it.
"""
