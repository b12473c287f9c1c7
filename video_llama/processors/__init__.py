"""From files to the tensors an encoder is fed."""
