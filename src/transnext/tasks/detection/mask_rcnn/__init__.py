"""Mask R-CNN and Faster R-CNN."""
