"""Why an engine's tensor is wrong: known mistakes, tried one by one on the node's real operands."""
