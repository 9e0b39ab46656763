"""Headers of model files: names, shapes and offsets of tensors in safetensors and in PyTorch's zip and pickle.

Read within bounds of time and memory, without executing anything in the file, and without torch.
May import `files`.
"""
