"""An oracle for ONNX files of the BERT family: every tensor by our own operators, and a judge of another engine's.

``load`` reads a file, ``execute`` runs it under stated integer semantics, ``judge_nodes`` compares another engine's
values node by node on that engine's own inputs. The onnx package parses files; it computes nothing here.
"""
