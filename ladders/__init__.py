"""Operating points, curves, the choice of CRF, bitrate ladders."""
