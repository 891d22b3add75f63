"""What is generated for the processes of a cluster; clients have no use for it."""
