"""The museum of bugs: known ways to be wrong about a policy gradient, each beside its exact bias.

`cases` has the problems and what is true of them, `exhibits` the mutants and controls, `samplers`
those that only sampling shows, `matrix` who kills whom; `python -m tests.museum` writes the page.
"""
