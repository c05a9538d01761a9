"""From folders to pictures: finding samples, decoding images, cutting tiles, the demo set."""
