"""The web application: the parts of the HTTP interface that are not on anybody's hot path."""
