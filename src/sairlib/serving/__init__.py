"""Recommendations over HTTP: what is asked, the answers, and the application that speaks to the network."""
