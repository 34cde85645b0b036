"""The selective scan: its public function, its definition, and its fast implementations."""
