from pyinfra.operations import apt

apt.packages(name="Install nginx", packages=["nginx-light"], update=True)
