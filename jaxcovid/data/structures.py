"""What is segmented, in numbers and names; `masks` has what reads them."""

STRUCTURES = ("lungs", "lesion")  # the order of channels
FEATURES = {"lungs": "lung_mask", "lesion": "lesion_mask"}  # of a record
UNKNOWN = 255  # a pixel of a mask that is not known; others are 0 or 1
