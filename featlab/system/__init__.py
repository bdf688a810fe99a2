"""What featlab needs of the machine: files, memory, cores, other processes, notebooks.

`files` writes files that appear whole or not at all, `tables` such tables; `machine` says how many
cores and how much memory there are; `workers` runs stages in other processes; `scratch` holds
matrices that may be larger than memory; `html` shows results in notebooks. Nothing here
knows of images or neurons.
"""
