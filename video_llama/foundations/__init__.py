"""Pretrains the small stand-ins for EVA ViT-g, BLIP-2, ImageBind and LLaMA on the toy world."""
