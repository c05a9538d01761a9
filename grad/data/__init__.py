"""From folders to tensors: finding samples, decoding images, the embedded demo set."""

from grad.data.demo import demo_dataset
from grad.data.images import UnreadableImage, load_image, load_mask, load_picture
from grad.data.layouts import find_dataset, survey_dataset
from grad.data.picture import Picture
from grad.data.samples import ClassSummary, Dataset, Sample, few_shot, held_out_count, hold_out
from grad.data.survey import ImageFacts, Survey, check_masks, image_facts, survey_images
from grad.data.validation import find_validation

__all__ = [
    "ClassSummary",
    "Dataset",
    "ImageFacts",
    "Picture",
    "Sample",
    "Survey",
    "UnreadableImage",
    "check_masks",
    "demo_dataset",
    "few_shot",
    "find_dataset",
    "find_validation",
    "held_out_count",
    "hold_out",
    "image_facts",
    "load_image",
    "load_mask",
    "load_picture",
    "survey_dataset",
    "survey_images",
]
