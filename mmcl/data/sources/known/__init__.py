"""Well-known annotation files: COCO, Flickr30k, Karpathy splits."""
