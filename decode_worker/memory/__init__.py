"""What sessions and turns hold in a decode worker's memory."""
