"""DINO: a DETR whose queries come from the encoder and learn from noisy objects beside their matches."""
