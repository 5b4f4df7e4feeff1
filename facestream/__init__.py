from facestream import environment

environment.prepare()  # before anything imports numpy or torch
