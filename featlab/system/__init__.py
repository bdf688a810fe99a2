"""What featlab needs of the machine: files, memory, cores, other processes, notebooks.

`files` writes files that appear whole or not at all, and the HTML of notebooks; `machine` says how
many cores and how much memory there are, holds matrices that may be larger than it, and runs stages
in other processes. Nothing here knows of images or neurons.
"""

__version__ = "0.1.0"
