"""The bytes of a model file: a header read within bounds, without running anything the file holds, and without torch.

safetensors, PyTorch's zip and pickle; names, shapes and offsets of tensors.
May import `files`.
"""
