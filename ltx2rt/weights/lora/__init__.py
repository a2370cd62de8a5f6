"""LoRA files and their relatives: reading every kind in every key style, and adding them to weights as they are loaded.

`keys`: whose tensor a name is. `scale`: alpha / rank. `kinds`: one object per way of changing a tensor. `file`: a whole
file. `opening`: a path. `generation`: which model it is for. `fusing`: what becomes of a weight.
"""
