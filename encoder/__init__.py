"""Source and codec settings in, H.265 stream and fitted weights out."""
