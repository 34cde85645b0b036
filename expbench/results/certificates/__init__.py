"""Certificates: what is proved of the class of networks of a configuration, as opposed to what its runs reached."""
