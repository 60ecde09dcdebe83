"""What happens when files, disks, locks and processes fail."""
