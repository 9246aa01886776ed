"""Audio files to text: recordings read in stretches, transcribed with times where asked for, written in any of ``formats``."""
