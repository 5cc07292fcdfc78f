"""What the head asks of Azure: to deallocate the VMs, at the end of a run or when nothing runs."""
