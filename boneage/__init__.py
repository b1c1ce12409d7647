"""Bone age from hand radiographs and age from adult skeletal images, with the evidence shown.

Importing the package is light: torch, gradio, pydicom and matplotlib load where they are used.
"""

__version__ = "0.1.0"
