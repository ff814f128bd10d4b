"""A readable, bit-exact reference for compressed BERT on CPUs.

Three rooms, one direction of imports, ``models -> kernels -> refimpl -> numpy``:

* ``refimpl``          meaning: what a result must be, to the bit, in plain NumPy
* ``refimpl.kernels``  machines: registers, instructions, layouts, tiles, threads
* ``refimpl.models``   assembly: BERT, files, texts, other engines, the command line
"""

__version__ = "0.1.0"
