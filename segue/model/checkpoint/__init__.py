"""Reading a checkpoint's folder: files, formats, settings, tensors."""
