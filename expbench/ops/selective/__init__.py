"""The selective scan: one operation, its definition, and its fast implementations."""
