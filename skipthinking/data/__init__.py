"""From sources to batches: formats, encoding, chunks, stages, sampling, and the LightningDataModule over them."""
